"""Bytes to pixels and back: the only importers of Pillow and rasterio.

`decode` is the way in, `encode` and `cog` are the ways out, `outline` turns pixels into a polygon;
the rest is theirs.

    decode ── sniff        which format, by content
           ├─ picture      PNG, JPEG, WebP, by Pillow
           │  └─ png, jpeg    is the file whole? only what makes pixels goes on
           └─ raster       TIFF, by GDAL; from a path too, a few rows at a time
              ├─ checks          can it be read, and is it the picture that is meant?
              ├─ bands, scaling  which bands are the picture, and how they become 8 bits
              └─ place           where it lies
    files ── decode or raster, and the files beside the one that the command line's user names;
             a VRT, or a file over the network
"""
