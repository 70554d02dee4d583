"""One exchange with an endpoint: live requests, their limits and outcomes, or the Batch API."""
