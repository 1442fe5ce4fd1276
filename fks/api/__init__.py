"""FastAPI routers, auth and problem documents; no domain logic."""
