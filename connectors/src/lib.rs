pub mod decode;
pub mod feeds;
