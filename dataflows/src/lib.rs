pub mod accounting;
pub mod decode;
pub mod ids;
pub mod number;
pub mod pointer;
pub mod record;
pub mod source;
pub mod spec;
