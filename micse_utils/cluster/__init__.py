"""Use several processes or machines, on Ray.

`connect` finds or starts Ray and shares out the work; `encode` is bulk encoding into an `output`.
"""
