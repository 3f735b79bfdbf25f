"""Where prices come from: one file a source. It yields closes in ticks and names what it refused; it writes nothing."""
