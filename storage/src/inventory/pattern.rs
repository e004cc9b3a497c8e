//! Regular expressions as searches take them: anchored at the start, run by an engine whose time is linear in the text.

use regex::{Regex, RegexBuilder};

use super::term;

/// Bytes in an expression.
const LONGEST: usize = 1024;

/// Bytes that a compiled expression, and what the engine remembers while it runs, may take each. One `\w`, which
/// knows the letters of all scripts, takes some 48 KiB.
const COMPILED: usize = 256 << 10;

/// What opens or changes something in an expression; all other characters stand for themselves.
const SPECIAL: &[char] = &['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'];

/// How much of a value an expression has to cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// It starts where the value starts. (Mender API: inventory.)
    Start,
    /// It is the whole value. (Mender API: reporting.)
    Both,
}

/// An expression that values are matched against.
///
/// `/expression/flags` is taken too, with flags `i`, `m`, `s` and `x`. One that is malformed, longer than 1,024 bytes, or
/// needs what a linear-time engine cannot do (look-around, back-references, repetitions that grow beyond 256 KiB) matches
/// nothing.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Option<Regex>,
    beginning: String,
    is_beginning_alone: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Pattern {
    /// Reads an expression.
    #[must_use]
    pub fn new(source: &str, anchor: Anchor) -> Self {
        let (expression, flags) = with_flags(source);
        let regex = (source.len() <= LONGEST).then(|| compile(expression, flags, anchor)).flatten();
        let (beginning, is_beginning_alone) = match anchor {
            Anchor::Start if flags.is_empty() => literal_beginning(expression),
            _ => (String::new(), false),
        };
        Self { source: source.to_owned(), regex, beginning, is_beginning_alone }
    }

    /// The expression that texts match which begin so.
    #[must_use]
    pub fn beginning_with(beginning: &str) -> Self {
        let beginning = term::cut(beginning).to_owned();
        let regex = Regex::new(&format!(r"\A{}", regex::escape(&beginning))).ok();
        Self { source: regex::escape(&beginning), regex, beginning, is_beginning_alone: true }
    }

    /// Whether a text matches. Of a text longer than 1,024 bytes only so much is looked at.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(term::cut(text)))
    }

    /// Whether it can match anything.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.regex.is_some()
    }

    /// What every text that matches begins with.
    pub(super) fn beginning(&self) -> &str {
        &self.beginning
    }

    /// Whether every text that begins so matches.
    pub(super) const fn is_beginning_alone(&self) -> bool {
        self.is_beginning_alone
    }
}

/// Splits `/expression/flags`; anything else is an expression without flags.
fn with_flags(source: &str) -> (&str, &str) {
    let split = source.strip_prefix('/').and_then(|rest| rest.rsplit_once('/'));
    split.filter(|(_, flags)| flags.chars().all(|flag| "imsx".contains(flag))).unwrap_or((source, ""))
}

fn compile(expression: &str, flags: &str, anchor: Anchor) -> Option<Regex> {
    // A comment at the end of an expression with flag x must not hide the parenthesis.
    let end = if flags.contains('x') { "\n)" } else { ")" };
    let after = if anchor == Anchor::Both { r"\z" } else { "" };
    // The expression alone first: one with a parenthesis too many must not get out of ours.
    let parsed = |text: &str| RegexBuilder::new(text).size_limit(COMPILED).dfa_size_limit(COMPILED).build().ok();
    if flags.is_empty() {
        parsed(expression)?
    } else {
        parsed(&format!("(?{flags}){expression}"))?
    };
    parsed(&format!(r"\A(?{flags}:{expression}{end}{after}"))
}

/// The characters that stand for themselves at the start of an expression, and whether nothing else is in it that matters.
fn literal_beginning(expression: &str) -> (String, bool) {
    let expression = expression.strip_prefix('^').unwrap_or(expression);
    // Another branch may begin in another way.
    if expression.contains('|') {
        return (String::new(), false);
    }
    let end = expression.find(SPECIAL).unwrap_or(expression.len());
    let (mut literal, rest) = expression.split_at(end);
    // What follows may make the last one optional.
    if rest.starts_with(['*', '?', '{'])
        && let Some((last, _)) = literal.char_indices().next_back()
    {
        literal = &literal[..last];
    }
    (literal.to_owned(), rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(source: &str, text: &str) -> bool {
        Pattern::new(source, Anchor::Start).matches(text)
    }

    #[test]
    fn an_expression_begins_where_the_value_begins() {
        for source in ["v1", "^v1", "v1.*", "/v1/", "/V1/i", "(x|v)1", "v\\d"] {
            assert!(matches(source, "v1.2"), "{source}");
            assert!(!matches(source, "rev1.2"), "{source}");
        }
        assert!(matches(".*v1", "rev1.2"));
        assert!(!matches("V1", "v1"));
        assert!(!Pattern::new("v1", Anchor::Both).matches("v1.2"));
        assert!(Pattern::new("v1.*", Anchor::Both).matches("v1.2"));
        assert!(matches("/v 1 # a comment/x", "v1"));
        assert!(matches("/a.b/s", "a\nb"));
        for source in [r"\w+-\w+\.\d+", r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", r"\d{1,3}(\.\d{1,3}){3}", r"[\w.-]+@[\w.-]+"]
        {
            assert!(Pattern::new(source, Anchor::Both).is_valid(), "{source}");
        }
    }

    #[test]
    fn what_cannot_be_done_in_linear_time_matches_nothing() {
        let long = "a".repeat(LONGEST + 1);
        for source in ["(", "(?=a)", r"(a)\1", "a)", "a)|(b", "(a{1000}){1000}", r"\w{100}", "[", &long] {
            let pattern = Pattern::new(source, Anchor::Start);
            assert!(!pattern.is_valid() && !pattern.matches("aa"), "{}", source.len());
        }
    }

    #[test]
    fn a_catastrophe_for_others_takes_no_time() {
        let begun = std::time::Instant::now();
        assert!(!matches("(a+)+$", &format!("{}b", "a".repeat(1000))));
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn the_beginning_is_known_where_it_is_plain() {
        for (source, beginning, alone) in [
            ("v1", "v1", true),
            ("^v1", "v1", true),
            ("v1.2", "v1", false),
            ("v1*", "v", false),
            ("v1+", "v1", false),
            ("v1?x", "v", false),
            ("a|b", "", false),
            ("/v1/i", "", false),
            (".*x", "", false),
            ("", "", true),
        ] {
            let pattern = Pattern::new(source, Anchor::Start);
            assert_eq!((pattern.beginning(), pattern.is_beginning_alone()), (beginning, alone), "{source}");
        }
    }
}
