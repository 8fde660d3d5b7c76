"""From a folder to batches of pictures.

| module      | holds                                                              |
|-------------|--------------------------------------------------------------------|
| `samples`   | what a data set is: a list of samples; splits                      |
| `finding`   | from what a user typed to samples: folders, categories             |
| `pictures`  | one file or array to one RGB picture, one file to one mask         |
| `batches`   | many pictures to batches: threads, resizing, cache                 |
| the others  | one data set layout each, announced as entry points `ad.datasets`  |
"""
