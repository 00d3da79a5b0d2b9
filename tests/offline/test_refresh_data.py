"""The shipped data equals that of the pinned packages.

Run `make refresh-data` after a new version of litellm or codecarbon.
"""

import orjson

from gateway.feeds import intensity_tables, prices_litellm
from gateway.feeds.package_data import DATA_FOLDER, INTENSITY_TABLES, PRICE_LIST
from gateway.http.token_counter import VOCABULARY_FILE
from gateway.offline import refresh_data


def _without_date(content: bytes) -> dict:
    document = orjson.loads(content)
    del document["source"]["refreshed"]
    return document


def test_the_shipped_price_list_is_that_of_the_pinned_litellm():
    assert _without_date((DATA_FOLDER / PRICE_LIST).read_bytes()) == _without_date(refresh_data.price_list())


def test_the_shipped_intensity_tables_are_those_of_the_pinned_codecarbon():
    shipped, fresh = (DATA_FOLDER / INTENSITY_TABLES).read_bytes(), refresh_data.intensity_tables()
    assert _without_date(shipped) == _without_date(fresh)


def test_the_shipped_vocabulary_is_that_of_the_pinned_litellm():
    assert (DATA_FOLDER / VOCABULARY_FILE).read_bytes() == refresh_data.vocabulary()


def test_refreshing_writes_every_file_that_serving_reads(tmp_path):
    written = {path.name for path in refresh_data.refresh(tmp_path)}
    assert written == {path.name for path in DATA_FOLDER.iterdir() if path.is_file()}


def test_each_file_is_read_once_per_process():
    assert prices_litellm.load() is prices_litellm.load()
    assert intensity_tables.load() is intensity_tables.load()
