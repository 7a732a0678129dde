"""Send feature records and labels to a stream's Kafka topics.

`Playback` reads a data set row by row and turns the rows into records and labels. Applications send
their own records with `producers.client.FeatureProducer`. Input: files, tables, generators or an
application's records. Output: the features and labels topics. This package never scores a record.
"""
