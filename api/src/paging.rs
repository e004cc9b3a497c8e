//! Pages of a list: `page` and `per_page` in, [`answer_page`] out.

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;
use url::form_urlencoded;

use crate::body::answer_json;
use crate::error::ApiError;

/// Elements of a page that asks for no number.
const DEFAULT_PER_PAGE: u32 = 20;

/// The largest page.
pub const MAX_PER_PAGE: u32 = 500;

/// The members of a query string in their order, decoded once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what follows the `?`.
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of this name that is not empty.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of this name that are not empty.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs().filter(move |(found, value)| *found == name && !value.is_empty()).map(|(_, value)| value)
    }

    /// Every name with its value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u32,
    /// 1 to [`MAX_PER_PAGE`].
    pub size: u32,
}

impl Page {
    /// The page that a query asks for.
    ///
    /// # Errors
    /// A 400 that names the parameter. (Mender API: paging errors.)
    pub fn from_query(query: &Query) -> Result<Self, ApiError> {
        Self::with_default_size(query, DEFAULT_PER_PAGE)
    }

    /// As [`Page::from_query`], with another size for those who ask for none.
    ///
    /// # Errors
    /// As there.
    pub fn with_default_size(query: &Query, default: u32) -> Result<Self, ApiError> {
        let number = positive(query, "page")?.unwrap_or(1);
        let size = positive(query, "per_page")?.unwrap_or(default.clamp(1, MAX_PER_PAGE));
        if size > MAX_PER_PAGE {
            return Err(ApiError::bad_request(format!("parameter \"per_page\" above limit (max: {MAX_PER_PAGE})")));
        }
        Ok(Self { number, size })
    }

    /// As [`Page::from_query`], but what makes no sense is passed over. (Mender API: lists of artifacts and releases.)
    pub fn forgiving(query: &Query) -> Self {
        let number = positive(query, "page").ok().flatten().unwrap_or(1);
        let size = positive(query, "per_page").ok().flatten().filter(|&size| size <= MAX_PER_PAGE);
        Self { number, size: size.unwrap_or(DEFAULT_PER_PAGE) }
    }

    /// As [`Page::forgiving`], but a page that is too large is refused. (Mender API: artifacts, version 2.)
    ///
    /// # Errors
    /// A 400 that names the parameter.
    pub fn forgiving_but_bounded(query: &Query) -> Result<Self, ApiError> {
        match positive(query, "per_page") {
            Ok(Some(size)) if size > MAX_PER_PAGE => Self::from_query(query),
            _ => Ok(Self::forgiving(query)),
        }
    }

    /// How many elements come before this page.
    pub fn offset(self) -> u32 {
        (self.number - 1).saturating_mul(self.size)
    }

    /// The `Link` headers of a list that is `path?query`, one per relation. (RFC 8288; relative URLs.)
    fn links(self, path: &str, query: &Query, extent: Extent) -> Vec<(HeaderName, HeaderValue)> {
        let mut relations = vec![("first", 1)];
        if self.number > 1 {
            relations.push(("prev", self.number - 1));
        }
        if extent.has_more(self) {
            relations.push(("next", self.number.saturating_add(1)));
        }
        if let Extent::Total(total) = extent
            && total > 0
        {
            relations.push(("last", last_page(total, self.size)));
        }
        relations
            .into_iter()
            .filter_map(|(relation, number)| {
                let link = format!("<{path}?{}>; rel=\"{relation}\"", self.query_of(query, number));
                Some((header::LINK, HeaderValue::from_str(&link).ok()?))
            })
            .collect()
    }

    /// The same query for another page, its names sorted.
    fn query_of(self, query: &Query, number: u32) -> String {
        let (number, size) = (number.to_string(), self.size.to_string());
        let mut pairs: Vec<(&str, &str)> =
            query.pairs().filter(|(name, _)| !matches!(*name, "page" | "per_page")).collect();
        pairs.push(("page", &number));
        pairs.push(("per_page", &size));
        // Stable: several values of one name keep their order.
        pairs.sort_by_key(|(name, _)| *name);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }
}

/// The name of the header with the number of elements on all pages. (Mender API)
pub const TOTAL_COUNT: &str = "X-Total-Count";

/// One page of the list `path?query`: the elements, with the headers that lead to the other pages and, if it is known, the
/// number of all elements.
pub fn answer_page(path: &str, query: &Query, page: Page, extent: Extent, elements: &impl Serialize) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    if let Extent::Total(total) = extent {
        answer.insert_header((TOTAL_COUNT, total.to_string()));
    }
    for link in page.links(path, query, extent) {
        answer.append_header(link);
    }
    answer_json(&mut answer, elements)
}

/// What is known about the length of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Only whether something follows this page.
    More(bool),
    /// The number of elements on all pages.
    Total(u64),
}

impl Extent {
    fn has_more(self, page: Page) -> bool {
        match self {
            Self::More(more) => more,
            Self::Total(total) => page.number < last_page(total, page.size),
        }
    }
}

fn last_page(total: u64, size: u32) -> u32 {
    u32::try_from(total.div_ceil(u64::from(size))).unwrap_or(u32::MAX)
}

fn positive(query: &Query, name: &str) -> Result<Option<u32>, ApiError> {
    let Some(text) = query.first(name) else { return Ok(None) };
    let number: i64 =
        text.parse().map_err(|_| ApiError::bad_request(format!("invalid {name} query: {}", quoted(text))))?;
    if number < 1 {
        return Err(ApiError::bad_request(format!("invalid {name} query: value must be a non-zero positive integer")));
    }
    // Beyond what a list can hold all pages are alike: empty.
    Ok(Some(u32::try_from(number).unwrap_or(u32::MAX)))
}

/// The start of what was sent, in quotes.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, String> {
        Page::from_query(&Query::parse(query)).map_err(|error| error.to_string())
    }

    fn links(page: Page, query: &str, extent: Extent) -> Vec<String> {
        let links = page.links("/list", &Query::parse(query), extent);
        links.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn pages_have_defaults_and_limits() {
        assert_eq!(page(""), Ok(Page { number: 1, size: 20 }));
        assert_eq!(page("page=3&per_page=500"), Ok(Page { number: 3, size: 500 }));
        assert_eq!(page("per_page=501").unwrap_err(), r#"parameter "per_page" above limit (max: 500)"#);
        assert_eq!(page("page=two").unwrap_err(), r#"invalid page query: "two""#);
        assert_eq!(page("per_page=thirty").unwrap_err(), r#"invalid per_page query: "thirty""#);
        for query in ["page=0", "page=-1"] {
            assert_eq!(page(query).unwrap_err(), "invalid page query: value must be a non-zero positive integer");
        }
        assert_eq!(
            page("per_page=0").unwrap_err(),
            "invalid per_page query: value must be a non-zero positive integer"
        );
    }

    #[test]
    fn the_size_follows_the_question_if_nobody_names_one() {
        let size = |query, default| Page::with_default_size(&Query::parse(query), default).unwrap().size;
        assert_eq!(size("", 45), 45);
        assert_eq!(size("", 4500), 500);
        assert_eq!(size("per_page=7", 45), 7);
    }

    #[test]
    fn some_lists_pass_over_what_makes_no_sense() {
        let forgiving = |query| Page::forgiving(&Query::parse(query));
        assert_eq!(forgiving("page=2&per_page=7"), Page { number: 2, size: 7 });
        for query in ["page=0&per_page=abc", "page=-1&per_page=501", "page=x", "per_page=99999999999999999999"] {
            assert_eq!(forgiving(query), Page { number: 1, size: 20 }, "{query}");
        }
        let bounded = |query| Page::forgiving_but_bounded(&Query::parse(query));
        assert_eq!(bounded("page=x&per_page=y").unwrap(), Page { number: 1, size: 20 });
        assert!(bounded("per_page=501").is_err());
        assert_eq!(bounded("per_page=500").unwrap().size, 500);
    }

    #[test]
    fn a_page_far_out_is_still_a_page() {
        assert_eq!(page("page=9223372036854775807").unwrap().offset(), u32::MAX);
        assert!(page("page=9223372036854775808").is_err());
    }

    #[test]
    fn links_keep_the_question_and_sort_its_names() {
        let found = links(Page { number: 2, size: 20 }, "status=pending&id=b&page=2&id=a%20c", Extent::More(true));
        assert_eq!(
            found,
            [
                r#"</list?id=b&id=a+c&page=1&per_page=20&status=pending>; rel="first""#,
                r#"</list?id=b&id=a+c&page=1&per_page=20&status=pending>; rel="prev""#,
                r#"</list?id=b&id=a+c&page=3&per_page=20&status=pending>; rel="next""#,
            ]
        );
    }

    #[test]
    fn the_only_page_has_no_neighbours() {
        let only = Page { number: 1, size: 20 };
        assert_eq!(links(only, "", Extent::More(false)), [r#"</list?page=1&per_page=20>; rel="first""#]);
        assert_eq!(links(only, "", Extent::Total(0)), [r#"</list?page=1&per_page=20>; rel="first""#]);
        assert_eq!(
            links(only, "", Extent::Total(20)),
            [r#"</list?page=1&per_page=20>; rel="first""#, r#"</list?page=1&per_page=20>; rel="last""#]
        );
    }

    #[test]
    fn a_known_total_tells_the_last_page() {
        let found = links(Page { number: 2, size: 10 }, "", Extent::Total(41));
        assert!(found.contains(&r#"</list?page=3&per_page=10>; rel="next""#.to_owned()));
        assert!(found.contains(&r#"</list?page=5&per_page=10>; rel="last""#.to_owned()));
    }
}
