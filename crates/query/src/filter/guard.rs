//! Limits on SQL text, checked on its tokens: no parser or planner sees text that could exhaust a stack.
//!
//! Parsers and planners recurse into what they read. Brackets nest; operators chain (`a OR b OR c` is a tree as deep as
//! it is long). Both are counted here in one iterative pass, and what is left is planned on a stack of
//! [`STACK_BYTES`].

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use esker_format::{Error, Result, limits};

/// Brackets inside brackets, subqueries included.
pub(crate) const NESTING: usize = 32;
/// Operators one after another that no comma, AND or OR separates, those in brackets among them included.
pub(crate) const CHAIN: usize = 128;
/// Subqueries, joins and set operations in one text.
pub(crate) const RELATIONS: usize = 64;
/// Depth to which sqlparser may recurse; above what [`NESTING`] needs.
pub(crate) const PARSER_DEPTH: usize = 256;
/// The stack that parsing and planning run on.
const STACK_BYTES: usize = 16 << 20;

/// Refuses `text` beyond the limits. `field` is the name by which the caller knows the text. A filter's terms are its
/// comparisons: one more than its ANDs and ORs.
pub(crate) fn check(field: &str, text: &str) -> Result<()> {
    if text.len() > limits::FILTER_BYTES {
        let message = format!("the {field} has {} bytes, the limit is {}", text.len(), limits::FILTER_BYTES);
        let over = Error::invalid(field, message);
        // A filter has no parameters.
        return Err(match field {
            "query" => over.with_hint("pass long values as parameters: $1, $2, …"),
            _ => over,
        });
    }
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize()
        .map_err(|e| Error::invalid(field, format!("the {field} is not SQL: {e}")))?;
    let mut count = Count::default();
    let significant: Vec<&Token> =
        tokens.iter().filter(|t| !matches!(t, Token::Whitespace(_) | Token::EOF)).collect();
    for (i, token) in significant.iter().enumerate() {
        count.add(token, i.checked_sub(1).map(|p| significant[p]), significant.get(i + 1).copied());
    }
    terms(field, count.connectives + 1)?;
    let over = |what: &str, n: usize, limit: usize| {
        Err(Error::invalid(field, format!("the {field} has {n} {what}, the limit is {limit}")))
    };
    match () {
        () if count.deepest > NESTING => over("levels of nested brackets", count.deepest, NESTING),
        () if count.longest > CHAIN => over("operators in one term", count.longest, CHAIN),
        () if count.relations > RELATIONS => over("subqueries and joins", count.relations, RELATIONS),
        () => Ok(()),
    }
}

/// Refuses more terms than a filter may have.
pub(crate) fn terms(field: &str, n: usize) -> Result<()> {
    if n <= limits::FILTER_TERMS {
        return Ok(());
    }
    Err(Error::invalid(field, format!("the {field} has {n} terms, the limit is {}", limits::FILTER_TERMS))
        .with_hint("write alternatives for one column as `column IN (…)`, which is one term"))
}

#[derive(Default)]
struct Count {
    /// The text outside all brackets.
    outside: Level,
    /// One per open bracket.
    open: Vec<Level>,
    deepest: usize,
    longest: usize,
    /// BETWEENs whose AND has not come yet.
    between: usize,
    connectives: usize,
    relations: usize,
}

/// What lies between two brackets.
#[derive(Default)]
struct Level {
    /// Whether the tokens are a FROM list, whose commas join.
    from: bool,
    /// Operators since the last separator.
    chain: usize,
    /// The most of them so far.
    longest: usize,
}

impl Count {
    fn add(&mut self, token: &Token, before: Option<&Token>, after: Option<&Token>) {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // A subscript chains like an operator: a[1][1][1].
                if matches!(before, Some(Token::RBracket | Token::RParen)) {
                    self.operator(1);
                }
                self.open.push(Level::default());
                self.deepest = self.deepest.max(self.open.len());
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                let inner = self.open.pop().map_or(0, |level| level.longest);
                self.operator(inner);
            }
            Token::Comma => {
                self.relations += usize::from(self.level().from);
                self.level().chain = 0;
            }
            Token::Minus | Token::Plus if sign(before, after) => {}
            Token::Word(word) if word.quote_style.is_none() => self.keyword(word.keyword),
            Token::SemiColon => self.clause(false),
            Token::Word(_) | Token::Number(..) | Token::Period | Token::Placeholder(_) => {}
            other if is_text(other) => {}
            _ => self.operator(1),
        }
    }

    fn keyword(&mut self, keyword: Keyword) {
        use Keyword::*;
        match keyword {
            BETWEEN => {
                self.between += 1;
                self.operator(1);
            }
            AND if self.between > 0 => self.between -= 1,
            AND | OR => {
                self.connectives += 1;
                self.level().chain = 0;
            }
            NOT | IS | LIKE | ILIKE | SIMILAR | RLIKE | REGEXP | IN | XOR | DIV | COLLATE | AT | PRIOR
            | INTERVAL | CASE | DESC | OVERLAPS | ANY | ALL | SOME | ESCAPE => self.operator(1),
            FROM => self.clause(true),
            WHERE | GROUP | ORDER | HAVING | LIMIT | OFFSET | WINDOW | QUALIFY | WITH => self.clause(false),
            SELECT | VALUES | TABLE => {
                self.clause(false);
                self.relations += 1;
            }
            EXPLAIN | DESCRIBE | JOIN | UNION | INTERSECT | EXCEPT | PIVOT | UNPIVOT => self.relations += 1,
            _ => {}
        }
    }

    fn level(&mut self) -> &mut Level {
        self.open.last_mut().unwrap_or(&mut self.outside)
    }

    fn operator(&mut self, n: usize) {
        let level = self.level();
        level.chain += n;
        level.longest = level.longest.max(level.chain);
        let longest = level.longest;
        self.longest = self.longest.max(longest);
    }

    fn clause(&mut self, from: bool) {
        let level = self.level();
        (level.from, level.chain) = (from, 0);
    }
}

/// Whether a plus or minus belongs to a number, as in `[-0.5, -1]`, where it does not chain.
fn sign(before: Option<&Token>, after: Option<&Token>) -> bool {
    matches!(before, None | Some(Token::Comma | Token::LBracket | Token::LParen))
        && matches!(after, Some(Token::Number(..)))
}

/// Quoted text in any of its spellings.
fn is_text(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
    )
}

/// Runs `work` on a stack of 16 MiB and waits. A panic inside is an internal error.
pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("plan".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Error::internal("cannot start a thread for planning").with_source(e))?
            .join()
            .unwrap_or_else(|_| Err(Error::internal("planning stopped on a broken invariant")))
    })
}

#[cfg(test)]
mod tests;
