"""The public JSON: one typed struct for each document, made from the domain here and nowhere else.

`/openapi.json` and its test take schemas and descriptions from these types, so a field is written once. Names,
shapes and nulls that have shipped stay: add to them, never change them.

Times are Unix seconds, durations are seconds, throughputs are tokens per second, shares are between 0 and 1.
Structs hold numbers as they are; JSON has no infinity, and the encoder writes null.
"""
