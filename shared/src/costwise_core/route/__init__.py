"""Which model answers: routes, routers, cascades and fallbacks."""
