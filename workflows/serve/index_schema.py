"""Tables of the index, and the statements that sum up a study after one of its images has changed.

``visible`` is 0 for an instance of a lossy image whose original lies in the archive too: it is found by its
own UID only, so that nobody sees every slice twice. Attributes are DICOM JSON.
"""

import zlib

from tilevault.workflows.serve.index_rows import ALL_TAGS

__all__ = ["SCHEMA", "SUMMARIES", "VERSION"]

SCHEMA = (
    """CREATE TABLE images (
        id TEXT PRIMARY KEY,
        n INTEGER NOT NULL,
        commit_sha256 TEXT,
        problem TEXT,
        kind TEXT,
        name TEXT,
        fidelity TEXT,
        study TEXT,
        series TEXT,
        added TEXT,
        record TEXT
    )""",
    """CREATE TABLE instances (
        image TEXT NOT NULL,
        file INTEGER NOT NULL,
        study TEXT NOT NULL,
        series TEXT NOT NULL,
        sop TEXT NOT NULL,
        original TEXT NOT NULL,
        exact INTEGER NOT NULL,
        visible INTEGER NOT NULL,
        number INTEGER,
        sha256 TEXT NOT NULL,
        syntax TEXT NOT NULL,
        attributes TEXT NOT NULL,
        above TEXT NOT NULL,
        PRIMARY KEY (image, file)
    )""",
    "CREATE INDEX instances_by_uid ON instances (study, series, sop)",
    "CREATE INDEX images_by_series ON images (series)",
    "CREATE INDEX instances_by_series ON instances (series)",
    "CREATE INDEX instances_by_sop ON instances (sop)",
    "CREATE INDEX instances_by_original ON instances (original)",
    """CREATE TABLE series (
        study TEXT NOT NULL,
        series TEXT NOT NULL,
        number INTEGER,
        modality TEXT,
        instances INTEGER NOT NULL,
        attributes TEXT NOT NULL,
        PRIMARY KEY (study, series)
    )""",
    """CREATE TABLE studies (
        study TEXT PRIMARY KEY,
        date TEXT,
        time TEXT,
        patient TEXT,
        accession TEXT,
        modalities TEXT NOT NULL,
        classes TEXT NOT NULL,
        series INTEGER NOT NULL,
        instances INTEGER NOT NULL,
        attributes TEXT NOT NULL
    )""",
    "CREATE INDEX studies_by_date ON studies (date DESC, time DESC, study)",
    "CREATE INDEX studies_by_patient ON studies (patient)",
)


def _value(tag: str, column: str = "above") -> str:
    return f"""json_extract({column}, '$."{tag}".Value[0]')"""


SUMMARIES = (
    """UPDATE instances SET visible = exact OR NOT EXISTS (
        SELECT 1 FROM instances AS other
        WHERE other.original = instances.original AND other.study = instances.study
          AND other.series = instances.series AND other.exact
    ) WHERE study = :study""",
    "DELETE FROM series WHERE study = :study",
    "DELETE FROM studies WHERE study = :study",
    # SQLite takes the bare columns from the row that has the minimum.
    f"""INSERT INTO series
        SELECT study, series, CAST({_value("00200011")} AS INTEGER), {_value("00080060")},
               instances, above
        FROM (SELECT study, series, above, COUNT(*) AS instances, MIN(sop) FROM instances
              WHERE study = :study AND visible GROUP BY series)""",
    f"""INSERT INTO studies
        SELECT study, {_value("00080020")}, {_value("00080030")}, {_value("00100020")}, {_value("00080050")},
            (SELECT json_group_array(modality) FROM
                (SELECT DISTINCT modality FROM series WHERE study = :study AND modality IS NOT NULL
                 ORDER BY modality)),
            (SELECT json_group_array(class) FROM
                (SELECT DISTINCT {_value("00080016", "attributes")} AS class FROM instances
                 WHERE study = :study AND visible AND class IS NOT NULL ORDER BY class)),
            (SELECT COUNT(*) FROM series WHERE study = :study), instances, above
        FROM (SELECT study, above, COUNT(*) AS instances, MIN(series || ' ' || sop) FROM instances
              WHERE study = :study AND visible GROUP BY study)""",
)
VERSION = zlib.crc32(repr((SCHEMA, SUMMARIES, sorted(ALL_TAGS))).encode()) >> 1
"""Changes with the tables and with what is read from headers; an index of another version is made anew."""
