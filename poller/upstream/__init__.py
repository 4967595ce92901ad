"""Asking upstreams: ``wire`` turns bytes into reports and back, ``client`` carries them over HTTP."""
