"""Pictures as people and cameras give them.

| module    | holds                                                                |
|-----------|----------------------------------------------------------------------|
| `reading` | one file, image or array to one RGB picture                          |
| `opening` | files and images opened, with what their headers say                 |
| `levels`  | white in pictures of more than 8 bits                                |
| `drawn`   | one file to one mask                                                 |
| `masks`   | which mask belongs to which picture, and what among parts is a mask  |
| `frames`  | single pictures of a video: their names, and which are looked at     |
| `reel`    | videos to frames                                                     |
| `walking` | what lies below a folder                                             |
| `names`   | what the names of files and folders mean                             |
"""
