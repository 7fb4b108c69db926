//! Reading the text of a filter (RFC 4515). Never panics, and says where and what it stumbled over.
//! White space around parentheses is passed over, so that a long filter can be broken into lines.

use super::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FilterError, Node, Operator, Test, syntax};

/// What was expected instead, and where (bytes from the start).
struct Stumble {
    offset: usize,
    expected: String,
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let mut reader = Reader { bytes: text.as_bytes(), text, at: 0 };
    reader.whole().map_err(|Stumble { offset, expected }| FilterError { filter: text.to_owned(), offset, expected })
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
}

/// An assertion as written: values unescaped, cut at each `*`.
pub(super) struct Item<'a> {
    pub text: &'a str,
    pub name: &'a str,
    pub in_dn: bool,
    pub rule: Option<&'a str>,
    pub operator: Operator,
    pub pieces: Vec<Vec<u8>>,
}

impl<'a> Reader<'a> {
    fn whole(&mut self) -> Result<Node, Stumble> {
        if self.bytes.len() > FILTER_BYTES_MAX {
            return self.expected(FILTER_BYTES_MAX, format!("the end: a filter has at most {FILTER_BYTES_MAX} bytes"));
        }
        self.skip_space();
        let node = self.filter(1)?;
        match self.peek() {
            None => Ok(node),
            Some(_) => self.expected(self.at, "the end of the filter"),
        }
    }

    /// One `(…)` and the white space after it.
    fn filter(&mut self, depth: usize) -> Result<Node, Stumble> {
        if depth > FILTER_DEPTH_MAX {
            return self.expected(self.at, format!("at most {FILTER_DEPTH_MAX} levels of parentheses"));
        }
        self.take(b'(')?;
        let node = match self.peek() {
            Some(b'&') => Node::And(self.list(depth)?),
            Some(b'|') => Node::Or(self.list(depth)?),
            Some(b'!') => {
                self.at += 1;
                self.skip_space();
                Node::Not(Box::new(self.filter(depth + 1)?))
            }
            _ => Node::Test(Test::new(self.item()?)),
        };
        self.take(b')')?;
        self.skip_space();
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stumble> {
        self.at += 1;
        self.skip_space();
        let mut nodes = Vec::new();
        while self.peek() == Some(b'(') {
            nodes.push(self.filter(depth + 1)?);
        }
        Ok(nodes)
    }

    fn item(&mut self) -> Result<Item<'a>, Stumble> {
        let start = self.at;
        let name = match self.peek() {
            Some(b':') => "",
            _ => self.name("an attribute name, \"&\", \"|\" or \"!\"")?,
        };
        let name_end = self.at;
        while self.peek() == Some(b';') {
            self.at += 1;
            self.word(|byte| byte.is_ascii_alphanumeric() || byte == b'-', "an attribute option")?;
        }
        let mut item = Item { text: "", name, in_dn: false, rule: None, operator: Operator::Equal, pieces: Vec::new() };
        if self.peek() == Some(b':') {
            item.operator = Operator::Extensible;
            self.extension(&mut item)?;
        } else {
            item.operator = match self.peek() {
                Some(b'>') => Operator::AtLeast,
                Some(b'<') => Operator::AtMost,
                Some(b'~') => Operator::Approximate,
                _ => Operator::Equal,
            };
            if item.operator != Operator::Equal {
                self.at += 1;
                self.take(b'=')?;
            } else if self.peek() == Some(b'=') {
                self.at += 1;
            } else {
                let more = if name_end == self.at { "more of the attribute name, " } else { "" };
                return self.expected(self.at, format!("{more}\"=\", \">=\", \"<=\", \"~=\" or \":\""));
            }
        }
        item.pieces = self.value(item.operator == Operator::Equal)?;
        item.text = self.text.get(start..self.at).unwrap_or_default();
        Ok(item)
    }

    /// `[:dn][:rule]:=`
    fn extension(&mut self, item: &mut Item<'a>) -> Result<(), Stumble> {
        loop {
            self.take(b':')?;
            if self.peek() == Some(b'=') && (!item.name.is_empty() || item.rule.is_some()) {
                self.at += 1;
                return Ok(());
            }
            if item.rule.is_some() {
                return self.expected(self.at, "\"=\"");
            }
            let word = self.name("\"=\", \"dn\" or a matching rule")?;
            if word.eq_ignore_ascii_case("dn") && !item.in_dn {
                item.in_dn = true;
            } else {
                item.rule = Some(word);
            }
        }
    }

    /// A name (`letter *(letter | digit | "-")`) or a numeric OID.
    fn name(&mut self, expected: &str) -> Result<&'a str, Stumble> {
        match self.peek() {
            Some(byte) if byte.is_ascii_alphabetic() => {
                self.word(|byte| byte.is_ascii_alphanumeric() || byte == b'-', expected)
            }
            Some(byte) if byte.is_ascii_digit() => {
                let start = self.at;
                self.word(|byte| byte.is_ascii_digit(), expected)?;
                while self.peek() == Some(b'.') {
                    self.at += 1;
                    self.word(|byte| byte.is_ascii_digit(), "a number of the OID")?;
                }
                Ok(self.text.get(start..self.at).unwrap_or_default())
            }
            _ => self.expected(self.at, expected),
        }
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool, expected: &str) -> Result<&'a str, Stumble> {
        let start = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        match self.text.get(start..self.at) {
            Some(word) if !word.is_empty() => Ok(word),
            _ => self.expected(start, expected),
        }
    }

    /// The assertion value up to the closing parenthesis, which stays.
    fn value(&mut self, stars: bool) -> Result<Vec<Vec<u8>>, Stumble> {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b')' => break,
                b'(' => return self.expected(self.at, "\"\\28\" for a parenthesis in a value, or \")\""),
                0 => return self.expected(self.at, "\"\\00\" for a zero byte in a value"),
                b'*' if !stars => return self.expected(self.at, "\"\\2a\" for an asterisk in this kind of value"),
                b'*' => pieces.push(std::mem::take(&mut piece)),
                b'\\' => match (self.bytes.get(self.at + 1), self.bytes.get(self.at + 2)) {
                    (Some(high), Some(low)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                        piece.push(syntax::hex(*high) << 4 | syntax::hex(*low));
                        self.at += 2;
                    }
                    _ => return self.expected(self.at + 1, "two hexadecimal digits (a backslash is \"\\5c\")"),
                },
                other => piece.push(other),
            }
            self.at += 1;
        }
        pieces.push(piece);
        Ok(pieces)
    }

    fn take(&mut self, byte: u8) -> Result<(), Stumble> {
        if self.peek() != Some(byte) {
            return self.expected(self.at, format!("\"{}\"", byte as char));
        }
        self.at += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expected<T>(&self, offset: usize, expected: impl Into<String>) -> Result<T, Stumble> {
        Err(Stumble { offset, expected: expected.into() })
    }
}
