//! One URL and what may be done with it: handlers by method, and the answers for all other methods.

use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::http::{Method, header};
use actix_web::{FromRequest, Handler, HttpResponse, Resource, Responder, web};

use crate::error::ApiError;

/// The pattern of the route that answers, for metrics and traces: a request's path would be one label per device.
#[derive(Debug, Clone, Copy)]
pub struct RoutePattern(pub &'static str);

/// A URL pattern with its handlers.
#[must_use = "an endpoint answers once it is registered"]
pub struct Endpoint {
    resource: Resource,
    methods: Vec<&'static str>,
}

impl Endpoint {
    /// Nothing yet at this pattern. Methods without a handler will be 405.
    pub fn at(pattern: &'static str) -> Self {
        Self { resource: web::resource(pattern).app_data(RoutePattern(pattern)), methods: vec![] }
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
