"""A pool: thousands of adapters of one base in one file, any of which runs at any moment.

A pool is a folder with two files. ``records-1`` has the adapters' records, one behind another on
borders of pages; ``index.sqlite`` says whose each of them is. Records are only ever appended, so
what is in use never moves; compaction writes another file, ``records-2``, and whoever has mapped
the first goes on with it. A program that serves from a pool works with these::

    pool = kronq.Pool.open("pool")
    pool.bytes               # uint8, a map of all records: bound to a graph once
    pool.find("name")        # Entry(name, generation, offset, size, tag, digest, …), microseconds
    entry = pool.pin("name") # the same; verified and in memory, and stays where it is until …
    pool.unpin(entry)
    if pool.refresh():       # sees what other programs have done since, in microseconds
        ...                  # True: pool.bytes is another array, to be bound again

A row of a batch is given ``entry.offset`` (its record is ``pool.bytes[offset : offset + size]``)
and ``entry.tag``, which the record has too.
"""
