use crate::decode::Value;
pub fn parse_time(_: &Value<'_>) -> Result<i64, String> {
    Ok(0)
}
