"""Where prices come from: one file a source. A source yields closes in ticks and says what it refused; it writes nothing."""
