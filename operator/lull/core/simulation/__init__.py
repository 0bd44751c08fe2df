"""A deployment in miniature: engines, cold starts and a scaler on a trace, by events, in no time."""
