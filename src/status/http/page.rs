//! `GET /`: the status page. It asks `/api/status` and draws what it hears; all that it is made of is
//! in the program, and it loads nothing else.

use axum::{
    Router,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// Only what this server sends, and nothing written into the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Each file: its path, its type, its text.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/page.svg", "image/svg+xml", include_str!("page/page.svg")),
];

pub(super) fn router() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    const POLICY_OF_RESOURCES: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    let headers = [
        (header::CONTENT_TYPE, kind),
        // The next version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (POLICY_OF_RESOURCES, "same-origin"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nobody_else_and_takes_no_text_for_markup() {
        for (path, _, text) in FILES {
            let from_outside = |line: &&str| {
                ["http://", "https://", "//cdn", "@import"].iter().any(|word| line.contains(word))
                    // The name of a language, which nobody fetches.
                    && !line.contains("http://www.w3.org/2000/svg")
            };
            assert_eq!(text.lines().find(from_outside), None, "{path}");
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(word), "{path}: {word}");
            }
        }
        let (_, _, html) = FILES[0];
        for word in ["style=", " onclick", "<style", "<script>"] {
            assert!(!html.contains(word), "the policy lets no {word} through");
        }
    }
}
