# Sources of worker/model: checkpoint readers and converters.
