"""What a run shows in TensorBoard, and how: the logger, the layout of its charts, its options, its figures."""
