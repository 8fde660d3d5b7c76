"""From a folder to batches of pictures.

| module      | holds                                                              |
|-------------|--------------------------------------------------------------------|
| `samples`   | what a data set is: a list of samples; splits                      |
| `finding`   | from what a user typed to samples: folders, categories             |
| `contents`  | what pictures and masks show that speaks against their names       |
| `headers`   | shapes and colours that are not those of most                      |
| `batches`   | many pictures to batches: threads, resizing, cache                 |
| the others  | one data set layout each, announced as entry points `ad.datasets`  |
"""
