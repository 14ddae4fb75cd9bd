//! What is asked of a server over HTTP, from a thread that waits for the answer.

use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

/// A client of its own thread. One connection is kept open.
pub struct Http {
    pub url: String,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Its body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text).map_err(|e| anyhow::anyhow!("{e} in the answer {self:?}"))
    }
}

impl Http {
    pub fn new(url: &str, timeout: Duration) -> anyhow::Result<Http> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
        Ok(Http { url: url.to_owned(), runtime, client })
    }

    /// Sends a request. An error is a connection that failed: what was asked may be done, or not.
    pub fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let response = request.send().await?;
            Ok(Answer { status: response.status().as_u16(), text: response.text().await? })
        })
    }

    pub fn get(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(Method::GET, path, &[], String::new())
    }

    pub fn post(&self, path: &str, body: String) -> reqwest::Result<Answer> {
        self.send(Method::POST, path, &[], body)
    }

    pub fn with_json(&self, method: Method, path: &str, body: &Value) -> reqwest::Result<Answer> {
        self.send(method, path, &[("content-type", "application/json")], body.to_string())
    }
}
