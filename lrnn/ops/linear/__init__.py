"""A linear map that keeps the gradient of its weight in float32."""
