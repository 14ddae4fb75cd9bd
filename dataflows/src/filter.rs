use crate::decode::Value;
use crate::pointer::Pointer;
pub struct Filter;
impl Filter {
    pub fn compile(_: &str) -> Result<Self, String> {
        Ok(Filter)
    }
    pub fn pointers(&self) -> &[Pointer] {
        &[]
    }
    pub fn matches(&self, _: &[Option<&Value<'_>>]) -> Result<bool, String> {
        Ok(true)
    }
}
