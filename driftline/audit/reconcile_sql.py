"""Define the SQL for `audit.reconcile`: tables for topic contents, and queries for the results."""

from typing import Final

TABLES: Final = """
CREATE TABLE features (partition INT, offset INT, published_ms INT, id TEXT, replayed INT);
CREATE TABLE predictions (partition INT, source INT, offset INT, id TEXT, key BLOB);
CREATE TABLE labels (partition INT, offset INT, published_ms INT, id TEXT, label, key BLOB);
CREATE TABLE outcomes (partition INT, source INT, id TEXT, revision INT, label);
CREATE TABLE letters (role TEXT, partition INT, offset INT);
-- held: the committed offset; handled: the first offset that the group has not handled.
CREATE TABLE groups (topic TEXT, role TEXT, partition INT, held INT, handled INT);
-- The offsets that each partition still contains.
CREATE TABLE logs (topic TEXT, partition INT, start INT, end INT);
-- For each partition whose oldest results retention deleted: the publish time of the oldest
-- remaining result.
CREATE TABLE kept (role TEXT, partition INT, oldest_ms INT);
"""

# Create the indexes after inserting all rows, which is much faster than updating them row by row.
ANALYSIS: Final = """
CREATE TABLE predicted AS
    SELECT partition, source, id, min(offset) AS offset, min(key) AS key, count(*) AS times
    FROM predictions GROUP BY partition, source, id;
-- The id distinguishes records of a recreated topic from the old topic's records at equal offsets.
CREATE UNIQUE INDEX predicted_source ON predicted (partition, source, id);
CREATE INDEX predicted_id ON predicted (id, partition);
CREATE INDEX outcomes_source ON outcomes (partition, source);
CREATE INDEX outcomes_label ON outcomes (id, partition, label);
CREATE INDEX letters_source ON letters (role, partition, offset);

CREATE TABLE record_fates AS
    SELECT f.partition, f.offset, f.id,
        CASE
            WHEN p.source IS NOT NULL THEN 'predicted'
            WHEN EXISTS (
                SELECT 1 FROM letters AS d
                WHERE d.role = 'features' AND d.partition = f.partition AND d.offset = f.offset
            ) THEN 'dead letter'
            WHEN f.offset >= coalesce(g.handled, 0) THEN 'waiting'
            WHEN f.published_ms < k.oldest_ms THEN 'expired'
            ELSE 'missing'
        END AS fate,
        EXISTS (
            SELECT 1 FROM outcomes AS o
            WHERE o.partition = f.partition AND o.source = f.offset AND o.id = f.id
        ) AS joined
    FROM features AS f
    LEFT JOIN predicted AS p
        ON p.partition = f.partition AND p.source = f.offset AND p.id = f.id
    LEFT JOIN groups AS g ON g.role = 'features' AND g.partition = f.partition
    LEFT JOIN kept AS k ON k.role = 'features' AND k.partition = f.partition;

-- For each label: does it equal the previous label with the same id, and is it in an outcome?
CREATE TABLE told AS
    SELECT partition, offset, published_ms, id,
        id IS NOT NULL AND lag(label) OVER each_id IS label AS same,
        EXISTS (
            SELECT 1 FROM outcomes AS o
            WHERE o.id = l.id AND o.partition = l.partition AND o.label = l.label
        ) AS joined
    FROM labels AS l
    WINDOW each_id AS (PARTITION BY partition, id ORDER BY offset);
CREATE INDEX told_id ON told (id, partition, offset);

CREATE TABLE label_fates AS
    SELECT l.partition, l.offset, l.id,
        CASE
            WHEN EXISTS (
                SELECT 1 FROM letters AS d
                WHERE d.role = 'labels' AND d.partition = l.partition AND d.offset = l.offset
            ) THEN 'dead letter'
            WHEN l.offset >= coalesce(g.handled, 0) THEN 'waiting'
            WHEN l.joined AND l.same THEN 'repeated'
            WHEN l.joined THEN 'joined'
            -- A later label replaced this one before the prediction arrived.
            WHEN EXISTS (
                SELECT 1 FROM told AS later
                WHERE later.id = l.id AND later.partition = l.partition
                    AND later.offset > l.offset AND later.joined
            ) THEN 'replaced'
            WHEN l.id IS NOT NULL AND l.offset >= g.held AND NOT EXISTS (
                -- A label is not waiting if the join already buffers its prediction.
                SELECT 1 FROM predicted AS p
                JOIN groups AS pg ON pg.role = 'predictions' AND pg.partition = p.partition
                WHERE p.id = l.id AND p.partition = l.partition
                    AND p.offset >= pg.held AND p.offset < pg.handled
            ) THEN 'waiting'
            WHEN l.published_ms < k.oldest_ms THEN 'expired'
            ELSE 'missing'
        END AS fate
    FROM told AS l
    LEFT JOIN groups AS g ON g.role = 'labels' AND g.partition = l.partition
    LEFT JOIN kept AS k ON k.role = 'labels' AND k.partition = l.partition;
"""

MISSING_RECORDS: Final = """
SELECT partition, offset, id FROM record_fates WHERE fate = 'missing' ORDER BY partition, offset
"""

MISSING_LABELS: Final = """
SELECT partition, offset, id FROM label_fates WHERE fate = 'missing' ORDER BY partition, offset
"""

REVISED: Final = """
SELECT count(*) FROM (
    SELECT DISTINCT partition, source, id, revision FROM outcomes WHERE revision > 0
)
"""

DOUBLED_OUTCOMES: Final = """
SELECT count(*) - (
    SELECT count(*) FROM (SELECT DISTINCT partition, source, id, revision FROM outcomes)
) FROM outcomes
"""

# Labels whose id has predictions in other partitions, but none in the label's own partition.
_MISPLACED: Final = """
FROM labels AS l JOIN predicted AS p ON p.id = l.id
WHERE NOT EXISTS (
    SELECT 1 FROM predicted AS own WHERE own.id = l.id AND own.partition = l.partition
)
GROUP BY l.partition, l.offset
"""

MISPLACED_LABELS: Final = f"SELECT count(*) FROM (SELECT 1 {_MISPLACED})"

NAMED_MISPLACED_LABELS: Final = f"""
SELECT l.partition, l.offset, l.id, l.key, min(p.partition), min(p.key) {_MISPLACED}
ORDER BY l.partition, l.offset
"""
