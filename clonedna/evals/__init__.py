"""What a block is worth, measured on code it was never trained on. Every number is a ``Measure``: measured, estimated or not available."""
