"""Send feature records and labels to a stream's topics.

Data sets are read row by row and played back as records and labels; applications send their own
records with `producers.client.FeatureProducer`. In: files, tables, generators or records of
applications. Out: the features and labels topics. This package never scores a record and never
reads predictions.
"""
