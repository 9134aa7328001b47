"""Turn documents into token shards: python -m data.prepare --source=stdlib --out=shards/stdlib"""

from data.text.prepare import main

if __name__ == "__main__":
    main()
