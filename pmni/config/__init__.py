"""Settings: typed, documented, checked. One module a stage; `experiment` puts them together."""
