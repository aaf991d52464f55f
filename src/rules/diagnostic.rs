//! What is shown to a person whose rule file is at fault: the file, the line, the column, the text
//! underlined, what was expected and what is near.
//!
//! It comes last in reading a file: the readers collect [`Diagnostic`]s, `rules::parse` puts them
//! in the order of the file and hands them out as one [`Report`]. Nothing here looks at YAML, and
//! nothing here decides what is secret: that is hidden by [`SourceText`] before anything is rendered.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use super::source_text::CutText;
pub use super::source_text::{SourceText, Span};

use crate::finding::{Finding, Part, Place};

/// Columns at which messages are wrapped; fixed, so that the same file always renders the same.
const WIDTH: usize = 100;

/// Diagnostics that are rendered; whoever has more of them mends these first.
const MOST: usize = 200;

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file can't be used.
    Error,
    /// The file can be used, and is probably not what was meant.
    Warning,
}

/// One thing that is wrong, or probably wrong, in a file.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    severity: Severity,
    message: String,
    /// Which of the report's files.
    pub(super) file: usize,
    /// The first is the one whose place is told; none where there is no file to show.
    labels: Vec<(Span, String)>,
    help: Option<String>,
}

impl Diagnostic {
    /// An error at a place of the rule file.
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            file: 0,
            labels: vec![(span, String::new())],
            help: None,
        }
    }

    /// A warning at a place of the rule file.
    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// An error that has no place in any text, such as a file that is not there.
    pub(super) fn without_place(message: impl Into<String>) -> Self {
        Self { labels: Vec::new(), ..Self::error(0..0, message) }
    }

    /// Says something under the underlined text.
    pub(super) fn label(&mut self, text: impl Into<String>) -> &mut Self {
        if let Some((_, label)) = self.labels.first_mut() {
            *label = text.into();
        }
        self
    }

    /// Underlines a second place that belongs to it.
    pub(super) fn also(&mut self, span: Span, text: impl Into<String>) -> &mut Self {
        self.labels.push((span, text.into()));
        self
    }

    /// Says what to do about it.
    pub(super) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The bytes it is about; `None` where it is about no text.
    pub fn span(&self) -> Option<Span> {
        self.labels.first().map(|(span, _)| span.clone())
    }
}

/// Everything that is wrong with a rule file, in the order of the file. As an error it stands for
/// the exit code [`Report::EXIT_CODE`].
#[derive(Clone)]
pub struct Report {
    files: Vec<Arc<SourceText>>,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The exit code of a command whose rule file is at fault.
    pub const EXIT_CODE: u8 = 2;

    pub(super) fn new(files: Vec<Arc<SourceText>>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|it| (it.file, it.span().map_or(0, |span| span.start)));
        // Text behind an anchor is read once for each alias.
        diagnostics
            .dedup_by(|a, b| (a.file, a.span(), &a.message) == (b.file, b.span(), &b.message));
        Self { files, diagnostics }
    }

    /// How many errors and warnings there are.
    pub fn len(&self) -> usize {
        self.diagnostics.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Each of them, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// All of them as text, with a count at the end. Without colour it is the same on every
    /// machine; with colour it holds ANSI sequences and is for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let theme =
            if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_links(false)
            .with_context_lines(1)
            .with_break_words(false)
            .tab_width(4);
        let mut out = String::new();
        for diagnostic in self.diagnostics.iter().take(MOST) {
            let shown = Rendered::new(diagnostic, self.files.get(diagnostic.file));
            if handler.render_report(&mut out, &shown).is_err() {
                // Never lose the message for the sake of its looks.
                let _ = writeln!(out, "{}", diagnostic.message);
            }
            out.push('\n');
        }
        if let Some(more) = self.diagnostics.len().checked_sub(MOST).filter(|more| *more > 0) {
            let _ = writeln!(out, "  … and {more} more\n");
        }
        out.push_str(&self.summary());
        out
    }

    /// All of them as data.
    pub fn findings(&self) -> Vec<Finding> {
        self.diagnostics.iter().map(|diagnostic| self.finding(diagnostic)).collect()
    }

    fn finding(&self, diagnostic: &Diagnostic) -> Finding {
        let new = match diagnostic.severity {
            Severity::Error => Finding::error,
            Severity::Warning => Finding::warning,
        };
        let place = |(span, label): &(Span, String)| {
            let file = self.files.get(diagnostic.file)?;
            let (line, column) = file.position(span.start);
            Some(Place { file: file.name.clone(), line, column, label: label.clone() })
        };
        Finding {
            help: diagnostic.help.clone(),
            place: diagnostic.labels.first().and_then(place),
            ..new("rule_file", Part::File, diagnostic.message.clone())
        }
    }

    fn summary(&self) -> String {
        let count = |severity| self.diagnostics.iter().filter(|it| it.severity == severity).count();
        let told = |count: usize, word: &str| match count {
            0 => None,
            1 => Some(format!("1 {word}")),
            count => Some(format!("{count} {word}s")),
        };
        let counts =
            [told(count(Severity::Error), "error"), told(count(Severity::Warning), "warning")];
        let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        match self.files.first() {
            Some(file) if !counts.is_empty() => format!("{counts} in {}\n", file.name),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The rendered text: that is what `main` and a failing test print.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// One diagnostic in the words of `miette`.
struct Rendered<'a> {
    diagnostic: &'a Diagnostic,
    file: Option<&'a Arc<SourceText>>,
    /// What is shown of a file with lines that are too long, and where its labels stand.
    cut: Option<(CutText, Vec<Span>)>,
}

impl<'a> Rendered<'a> {
    fn new(diagnostic: &'a Diagnostic, file: Option<&'a Arc<SourceText>>) -> Self {
        let spans = || diagnostic.labels.iter().map(|(span, _)| span.clone()).collect::<Vec<_>>();
        let fits =
            |file: &Arc<SourceText>| diagnostic.labels.iter().all(|(span, _)| file.fits(span));
        let cut = file.filter(|file| !fits(file)).map(|file| file.cut(&spans()));
        Self { diagnostic, file, cut }
    }
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl fmt::Debug for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Rendered<'_> {}

impl miette::Diagnostic for Rendered<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match &self.cut {
            Some((cut, _)) => Some(cut),
            None => self.file.map(|file| file.as_ref() as &dyn SourceCode),
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let file = self.file?;
        if self.diagnostic.labels.is_empty() {
            return None;
        }
        Some(Box::new(self.diagnostic.labels.iter().enumerate().map(|(index, (span, text))| {
            let text = (!text.is_empty()).then(|| text.clone());
            let span = match &self.cut {
                Some((_, spans)) => spans[index].clone(),
                None => file.shown_span(span),
            };
            if index == 0 {
                LabeledSpan::new_primary_with_span(text, span)
            } else {
                LabeledSpan::new_with_span(text, span)
            }
        })))
    }
}
