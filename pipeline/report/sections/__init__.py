"""The sections of the page: each a view of the results and, beside it, the template that it fills."""
