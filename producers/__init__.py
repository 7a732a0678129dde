"""Send feature records and labels to a stream's topics.

A data set is read row by row and played back as records and labels. An application sends its own
records with `producers.client.FeatureProducer`. Input: files, tables, generators or an
application's records. Output: the features and labels topics. This package never scores a record.
"""
