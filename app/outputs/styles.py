"""How QGIS draws results: buildings in our colour, and the imagery shown beneath.

Source: a QGIS style (QML) as QGIS 3.22 writes it, cut to the parts that QGIS needs.
"""

from ..imaging.encode import ACCENT

OPACITY = 180
"""Alpha of a building, of 255: the roof shows through. 255 itself is left to nodata."""
COLOURS = {0: (0, 0, 0), 1: ACCENT}
"""Red, green and blue of each value of the mask."""

_RED_GREEN_BLUE = "{},{},{}".format(*ACCENT)

RASTER_QML = f"""\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" alphaBand="-1" opacity="1">
      <colorPalette>
        <paletteEntry value="0" label="no building" color="#000000" alpha="0"/>
        <paletteEntry value="1" label="building" color="#{bytes(ACCENT).hex()}" alpha="{OPACITY}"/>
      </colorPalette>
    </rasterrenderer>
  </pipe>
  <blendMode>0</blendMode>
</qgis>
"""
"""The style of a GeoTIFF: its first band, the mask."""

POLYGONS_QML = f"""\
<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <renderer-v2 type="singleSymbol">
    <symbols>
      <symbol type="fill" name="0" alpha="1">
        <layer class="SimpleFill" enabled="1">
          <Option type="Map">
            <Option type="QString" name="color" value="{_RED_GREEN_BLUE},70"/>
            <Option type="QString" name="outline_color" value="{_RED_GREEN_BLUE},255"/>
            <Option type="QString" name="outline_style" value="solid"/>
            <Option type="QString" name="outline_width" value="0.4"/>
            <Option type="QString" name="outline_width_unit" value="MM"/>
            <Option type="QString" name="style" value="solid"/>
          </Option>
        </layer>
      </symbol>
    </symbols>
  </renderer-v2>
</qgis>
"""
"""The style of footprints."""
