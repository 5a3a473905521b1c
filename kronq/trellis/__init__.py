"""The entropy-coded codec: trellis-coded levels, their encoder, and the stream that holds them."""
