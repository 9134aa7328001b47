"""A linear map whose weight's gradient is kept in float32."""
