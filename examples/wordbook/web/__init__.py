"""The edge: the contexts over HTTP, with asyncio. No rule of the domain lives here."""
