"""A Celery application as one has it already: its tasks know nothing of Prefect."""

import csv
import os
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from celery import Celery

app = Celery("stocks")
PRICES = Path(__file__).with_name("prices.csv")
DATABASE = os.environ.get("STOCKS_DATABASE", "stocks.db")
DAYS = {"1mo": 22, "1wk": 5}


@app.task(name="data.download_historical")
def download_historical(ticker: str, period: str) -> int:
    with PRICES.open() as file:
        rows = [
            (row["ticker"], row["day"], float(row["close"])) for row in csv.DictReader(file) if row["ticker"] == ticker
        ]
    if not rows:
        raise LookupError(f"there are no prices of {ticker}")
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS prices (ticker, day, close, PRIMARY KEY (ticker, day))")
        database.executemany("INSERT OR REPLACE INTO prices VALUES (?, ?, ?)", rows[-DAYS[period] :])
    return len(rows[-DAYS[period] :])


@app.task(name="indicators.calculate_rsi")
def calculate_rsi(days: int = 14) -> dict[str, float]:
    """Return the relative strength index of each ticker: 0 where prices only fell, 100 where they only rose."""
    with closing(sqlite3.connect(DATABASE)) as database:
        rows = database.execute("SELECT ticker, close FROM prices ORDER BY ticker, day").fetchall()
    indices = {}
    for ticker in {ticker for ticker, _ in rows}:
        closes = [close for name, close in rows if name == ticker][-days - 1 :]
        moves = [after - before for before, after in pairwise(closes)]
        gain, loss = sum(move for move in moves if move > 0), -sum(move for move in moves if move < 0)
        indices[ticker] = round(100 * gain / (gain + loss or 1), 1)
    return indices
