"""Text helpers of the data tools, under the names that users of the reference import."""
