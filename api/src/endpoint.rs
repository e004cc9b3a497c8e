//! One URL and what may be done with it: handlers by method, and the answers for all other methods.

use std::cell::RefCell;

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::http::{Method, header};
use actix_web::web::ServiceConfig;
use actix_web::{App, FromRequest, Handler, HttpResponse, Resource, Responder, web};

use crate::error::ApiError;

/// The pattern of the route that answers, for metrics and traces: a request's path would be one label per device.
#[derive(Debug, Clone, Copy)]
pub struct RoutePattern(pub &'static str);

/// A method that is served at a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// As the router spells it: `{name}` stands for a segment.
    pub pattern: &'static str,
    /// In capital letters.
    pub method: &'static str,
}

thread_local! {
    /// Routes that somebody wants to be told of.
    static NOTED: RefCell<Option<Vec<Route>>> = const { RefCell::new(None) };
}

/// Everything that `routes` registers, in that order: for those who look whether each of them is guarded.
pub fn list(routes: fn(&mut ServiceConfig)) -> Vec<Route> {
    NOTED.set(Some(Vec::new()));
    let _registered = App::new().configure(routes);
    NOTED.take().unwrap_or_default()
}

/// A URL pattern with its handlers.
#[must_use = "an endpoint answers once it is registered"]
pub struct Endpoint {
    pattern: &'static str,
    resource: Resource,
    methods: Vec<&'static str>,
}

impl Endpoint {
    /// Nothing yet at this pattern. Methods without a handler will be 405.
    pub fn at(pattern: &'static str) -> Self {
        Self { pattern, resource: web::resource(pattern).app_data(RoutePattern(pattern)), methods: vec![] }
    }

    /// Answers GET.
    pub fn get<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::GET, "GET", handler)
    }

    /// Answers HEAD; the framework leaves out the body.
    pub fn head<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::HEAD, "HEAD", handler)
    }

    /// Answers POST.
    pub fn post<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::POST, "POST", handler)
    }

    /// Answers PUT.
    pub fn put<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::PUT, "PUT", handler)
    }

    /// Answers PATCH.
    pub fn patch<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::PATCH, "PATCH", handler)
    }

    /// Answers DELETE.
    pub fn delete<F: Handler<Args>, Args: FromRequest + 'static>(self, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.on(Method::DELETE, "DELETE", handler)
    }

    fn on<F: Handler<Args>, Args: FromRequest + 'static>(
        mut self,
        method: Method,
        name: &'static str,
        handler: F,
    ) -> Self
    where
        F::Output: Responder + 'static,
    {
        self.methods.push(name);
        NOTED.with_borrow_mut(|noted| {
            if let Some(list) = noted {
                list.push(Route { pattern: self.pattern, method: name });
            }
        });
        self.resource = self.resource.route(web::method(method).to(handler));
        self
    }
}

impl HttpServiceFactory for Endpoint {
    fn register(mut self, service: &mut AppService) {
        self.methods.push("OPTIONS");
        let (allowed, refused) = (self.methods.clone(), self.methods);
        let options = move || {
            let mut answer = HttpResponse::Ok();
            for method in &allowed {
                // One header line per method, as the Mender API does it.
                answer.append_header((header::ALLOW, *method));
            }
            std::future::ready(answer.finish())
        };
        let otherwise = move || std::future::ready(Err::<HttpResponse, _>(ApiError::MethodNotAllowed(refused.clone())));
        self.resource
            .route(web::method(Method::OPTIONS).to(options))
            .default_service(web::to(otherwise))
            .register(service);
    }
}
