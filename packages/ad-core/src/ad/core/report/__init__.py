"""Reports that a person can see, trust and carry on with: one HTML file, no network.

| file | what |
|---|---|
| `gallery.py` | which test pictures are shown, chosen while they are scored |
| `predictions.py` | which new pictures are shown, and what their page says; without torch |
| `webp.py`, `shelf.py` | small pictures and maps; what has the highest ranks |
| `run.py` | what the page of one run says |
| `finished.py` | what finished runs wrote, read to be compared |
| `standings.py` | many runs as a table: a row for each model, a column for each category |
| `contrasts.py` | which differences between models are more than chance, in words |
| `caveats.py` | what a reader of these figures must know: other pictures, versions, machines |
| `recommending.py`, `choice.py` | which model to take: in words, and from runs |
| `comparison.py` | what the page of several runs says |
| `writing.py` | the `ad report` command's work: from run directories to a file |
| `page.py` | puts data, style and script into one file; the parts are in `page/` |
"""
