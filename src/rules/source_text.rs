//! A file's text as it may be shown: what is secret in it is replaced, and places stay right.
//!
//! Diagnostics point into the real file; what is rendered is the shown text. This is the one place
//! that translates between the two. It does not know what is secret: it is told the ranges.

use std::{fmt, ops::Range};

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// Bytes of a file, from the first to behind the last.
pub type Span = Range<usize>;

/// Text that stands for what is hidden; its length says nothing of the length of the secret.
const HIDDEN: &str = "***";

/// Of a longer line than this, in bytes, only what is around the place is shown.
const LONGEST_LINE: usize = 400;
/// What of such a line is shown before the place, and in all, in bytes.
const CUT: (usize, usize) = (30, 90);

/// The text of one file as it may be shown.
pub struct SourceText {
    pub(super) name: String,
    original: String,
    shown: String,
    /// Hidden ranges: where they are in `original`, and what stands for them in `shown`.
    hidden: Vec<(Span, Span)>,
}

impl SourceText {
    /// Takes a file's text and the ranges of it that must never be shown, in any order.
    pub fn new(name: impl Into<String>, text: &str, hide: Vec<Span>) -> Self {
        let mut shown = String::with_capacity(text.len() + 1);
        let mut hidden = Vec::new();
        let mut copied = 0;
        for range in merged(text, hide) {
            shown.push_str(&text[copied..range.start]);
            let start = shown.len();
            shown.push_str(HIDDEN);
            // The lines below keep their numbers.
            shown.extend(text[range.clone()].chars().filter(|&character| character == '\n'));
            hidden.push((range.clone(), start..shown.len()));
            copied = range.end;
        }
        shown.push_str(&text[copied..]);
        // A label at the very end of the file needs something to stand under.
        shown.push('\n');
        Self { name: name.into(), original: text.to_owned(), shown, hidden }
    }

    /// The line and the column of a byte of the file, both from 1, the column in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor(&self.original, offset);
        let before = &self.original[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Where a range of the file stands in the text that is shown: one line of it, not empty.
    pub(super) fn shown_span(&self, span: &Span) -> Span {
        let start = self.to_shown(span.start, false).min(self.shown.len() - 1);
        let start = floor(&self.shown, start);
        let rest = &self.shown[start..];
        let line = rest.find('\n').map_or(rest, |newline| &rest[..newline]).trim_end();
        let line_end = start + line.len();
        let end = floor(&self.shown, self.to_shown(span.end, true)).min(line_end);
        // An empty range gets the character it stands before, or the line's end.
        let smallest = rest.chars().next().map_or(1, char::len_utf8);
        start..end.max(start + smallest)
    }

    /// Whether the lines at and around a range can be shown.
    pub(super) fn fits(&self, span: &Span) -> bool {
        let start = self.shown_span(span).start;
        let line = self.shown[..start].matches('\n').count();
        let mut around = self.shown.split('\n').skip(line.saturating_sub(1)).take(3);
        around.all(|line| line.len() <= LONGEST_LINE)
    }

    /// The text with its long lines cut to what is around these ranges of the file, and where the ranges
    /// stand in it. The heading tells the place of the first.
    pub(super) fn cut(&self, spans: &[Span]) -> (CutText, Vec<Span>) {
        let shown: Vec<Span> = spans.iter().map(|span| self.shown_span(span)).collect();
        let mut cut = vec![0..0; spans.len()];
        let mut text = String::new();
        let mut begins = 0;
        for line in self.shown.split_inclusive('\n') {
            let ends = begins + line.trim_end_matches('\n').len();
            let here = |span: &Span| span.start >= begins && span.start < begins + line.len();
            let first = shown.iter().find(|span| here(span)).map_or(begins, |span| span.start);
            let (from, to) = match ends - begins > LONGEST_LINE {
                true => {
                    let from = floor(&self.shown, first.saturating_sub(CUT.0).max(begins));
                    (from, floor(&self.shown, (from + CUT.1).min(ends)))
                }
                false => (begins, ends),
            };
            text.push_str(if from > begins { "…" } else { "" });
            let at = text.len();
            text.push_str(&self.shown[from..to]);
            text.push_str(if to < ends { "…\n" } else { "\n" });
            for (span, cut) in shown.iter().zip(&mut cut).filter(|(span, _)| here(span)) {
                // One that stands before or behind what is shown gets the sign that there is more.
                if span.end <= from && from > begins {
                    *cut = at - "…".len()..at;
                    continue;
                }
                let start = span.start.clamp(from, to);
                let end = span.end.clamp(start, to);
                let smallest = text[at + start - from..].chars().next().map_or(1, char::len_utf8);
                *cut = at + start - from..(at + end - from).max(at + start - from + smallest);
            }
            begins += line.len();
        }
        let position = self.position(spans.first().map_or(0, |span| span.start));
        (CutText { name: self.name.clone(), text, position }, cut)
    }

    fn to_shown(&self, offset: usize, is_end: bool) -> usize {
        let mut shift = 0isize;
        for (original, shown) in &self.hidden {
            if offset <= original.start {
                break;
            }
            if offset < original.end {
                return if is_end { shown.end } else { shown.start };
            }
            shift = shown.end as isize - original.end as isize;
        }
        offset.min(self.original.len()).saturating_add_signed(shift)
    }

    fn to_original(&self, offset: usize) -> usize {
        let mut shift = 0isize;
        for (original, shown) in &self.hidden {
            if offset <= shown.start {
                break;
            }
            if offset < shown.end {
                return original.start;
            }
            shift = original.end as isize - shown.end as isize;
        }
        offset.saturating_add_signed(shift)
    }
}

/// The name alone: the text may hold what must not be shown.
impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceText").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SourceCode for SourceText {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let heading = || self.position(self.to_original(span.offset()));
        read((&self.name, &self.shown), (span, before, after), heading)
    }
}

/// A part of a text as miette asks for it. Without lines around it that is for the heading, which tells the
/// place in the real file, both from 1 and in characters.
fn read<'a>(
    (name, text): (&str, &'a str),
    (span, before, after): (&SourceSpan, usize, usize),
    heading: impl FnOnce() -> (usize, usize),
) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
    let contents = text.read_span(span, before, after)?;
    let (line, column) = match (before, after) {
        (0, 0) => {
            let (line, column) = heading();
            (line - 1, column - 1)
        }
        _ => (contents.line(), contents.column()),
    };
    Ok(Box::new(MietteSpanContents::new_named(
        name.to_owned(),
        contents.data(),
        *contents.span(),
        line,
        column,
        contents.line_count(),
    )))
}

/// A file's text without most of its long lines.
pub(super) struct CutText {
    name: String,
    text: String,
    /// What the heading tells, both from 1.
    position: (usize, usize),
}

impl SourceCode for CutText {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        read((&self.name, &self.text), (span, before, after), || self.position)
    }
}

/// Sorted, without overlaps, on character boundaries.
fn merged(text: &str, mut ranges: Vec<Span>) -> Vec<Span> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Span> = Vec::new();
    for range in ranges {
        let range = floor(text, range.start)..floor(text, range.end);
        match merged.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The nearest character boundary at or before an offset.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_leaves_every_other_place_where_it_was() {
        let text = "é: secret, b: 1\nc: two\nlines\nd: 2\n";
        let at = |piece: &str| {
            text.find(piece).expect("there")..text.find(piece).expect("there") + piece.len()
        };
        let long = at("two\nlines");
        let source = SourceText::new("file", text, vec![at("secret"), long.clone(), long]);
        assert_eq!(source.shown, "é: ***, b: 1\nc: ***\n\nd: 2\n\n");
        for (piece, position) in [("b: 1", (1, 12)), ("d: 2", (4, 1)), ("secret", (1, 4))] {
            assert_eq!(source.position(at(piece).start), position, "{piece}");
            let shown = source.shown_span(&at(piece));
            let expected = if piece == "secret" { "***" } else { piece };
            assert_eq!(&source.shown[shown.clone()], expected);
            let back = source.to_original(shown.start);
            assert_eq!(source.position(back), position, "{piece}");
        }
    }

    #[test]
    fn of_a_long_line_what_is_around_the_place_is_shown() {
        let text = format!("a: 1\nb: {} here {} there\nc: 2", "é".repeat(300), "x".repeat(500));
        let at = |piece: &str| text.find(piece).map(|at| at..at + piece.len()).expect("there");
        let source = SourceText::new("file", &text, Vec::new());
        let (cut, spans) = source.cut(&[at("here"), at("there"), at("c: 2")]);
        let shown: Vec<_> = spans.into_iter().map(|span| &cut.text[span]).collect();
        assert_eq!(shown, ["here", "…", "c: 2"]);
        // What stands before the first of them, too.
        let (cut, spans) = source.cut(&[at("there"), at("here"), at("c: 2")]);
        let shown: Vec<_> = spans.into_iter().map(|span| &cut.text[span]).collect();
        assert_eq!(shown, ["there", "…", "c: 2"]);
        let (cut, _) = source.cut(&[at("here")]);
        let lines: Vec<&str> = cut.text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].matches('…').count(), 2);
        assert_eq!(cut.position, (2, 305));
    }

    #[test]
    fn a_place_is_never_empty_nor_outside() {
        let source = SourceText::new("file", "a: é", Vec::new());
        for (span, expected) in
            [(0..0, "a"), (3..3, "é"), (3..4, "é"), (5..5, "\n"), (90..99, "\n")]
        {
            assert_eq!(&source.shown[source.shown_span(&span)], expected, "{span:?}");
        }
    }
}
