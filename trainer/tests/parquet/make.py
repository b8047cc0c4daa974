"""Writes the parquet files of `trainer/tests/corpus.rs`: python make.py (needs pyarrow)."""
import pyarrow as pa
import pyarrow.parquet as pq

texts = [f"Document {n}: the cat sat on mat number {n % 7}, äöü." for n in range(40)] + [None, "  ", "The end."]
table = pa.table({"id": list(range(len(texts))), "text": texts, "score": [0.5] * len(texts)})
for compression in ["none", "snappy", "gzip", "lz4", "zstd", "brotli"]:
    for version in ["1.0", "2.0"]:
        if version == "2.0" and compression not in ["snappy", "zstd"]:
            continue
        pq.write_table(
            table, f"{compression}-v{version[0]}.parquet", compression=compression,
            data_page_version=version, row_group_size=20,
        )

messages = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"},
     {"role": "assistant", "content": "Hello."}],
    [{"role": "user", "content": "Say nothing."}],
    [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."},
     {"role": "user", "content": "Three?"}, {"role": "assistant", "content": None},
     {"role": "user", "content": "Four?"}, {"role": "assistant", "content": "Five."}],
]
pq.write_table(pa.table({"source": ["a", "b", "c"], "messages": messages}), "messages.parquet", compression="zstd")
sharegpt = [[{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]]
pq.write_table(pa.table({"conversations": sharegpt}), "conversations.parquet")
pq.write_table(pa.table({"text": [1, 2, 3]}), "numbers.parquet")
