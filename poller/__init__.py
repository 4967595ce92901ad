"""The daemon that settles asynchronous AI tasks of new-api gateways."""
