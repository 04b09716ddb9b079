"""More than one process or machine, on Ray.

`connect` finds or starts Ray and shares out the work; `encode` is bulk encoding into an `output`.
"""
