"""How the page looks: a theme and the little that it leaves to CSS."""

import gradio as gr

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = """
.gradio-container { width: 100% !important; max-width: 1240px !important; min-width: 0 !important;
  margin: 0 auto !important; padding: 0 !important; }
.gradio-container .wrap, .gradio-container .contain, .gradio-container .column { min-width: 0; max-width: 100%; }
.gradio-container > .main { padding: 16px 24px 40px !important; }
.gradio-container .wrap.fillable, .gradio-container .main.fillable { max-width: 100% !important; }
#head { display: flex; align-items: center; gap: 10px 18px; flex-wrap: wrap; padding: 0 0 6px; }
#head h1 { font-size: 1.55rem; font-weight: 650; letter-spacing: -0.02em; margin: 0; color: var(--body-text-color); }
#head p { margin: 0; color: var(--body-text-color-subdued); flex: 1 1 240px; }
#head .badge { border: 1px solid var(--border-color-primary); border-radius: 999px; padding: 4px 14px;
  font-size: .85rem; font-weight: 600; color: var(--body-text-color); white-space: nowrap;
  background: var(--background-fill-secondary); }
.panes { gap: 28px; align-items: flex-start; margin-top: 8px; }
.tight { gap: 10px; }
.actions { gap: 10px; }
.actions button { min-height: 44px; }
.picks .row, .picks .form { gap: 0; }
.picks .more label > span:first-child, .picks .more .container > span:first-child {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0; }
.picks .more .block { padding-top: 8px; }
.picks .secondary-wrap, .picks .wrap-inner { padding-left: 4px; padding-right: 0; }
.tab-container button.selected { color: #0f766e !important; }
.dark .tab-container button.selected { color: #2dd4bf !important; }
.lead { max-width: 76ch; }
.lead p { color: var(--body-text-color-subdued); }
.pictures .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important;
  overflow: visible; }
.pictures .grid-container { grid-template-rows: none !important; grid-auto-rows: auto !important; }
.pictures > .block-label, .pictures label[data-testid=block-label] { position: static; border: 0; background: none;
  padding: 8px 12px 0; }
/* Captions lie below pictures, never over them: the bases of the lungs are what many prompts are about. */
.pictures .thumbnail-lg { display: flex !important; flex-direction: column; aspect-ratio: auto !important;
  height: auto !important; background: none; border-color: transparent; border-radius: 8px; overflow: visible; }
.pictures .thumbnail-lg img { width: 100% !important; height: auto !important; aspect-ratio: 1; background: #000;
  border-radius: 8px; object-fit: contain; }
.pictures .caption-label { position: static !important; opacity: 1 !important; max-width: 100%; border: 0;
  white-space: normal; background: none; color: var(--body-text-color); font-size: .8rem; line-height: 1.4;
  padding: 6px 2px 8px; text-align: left; transform: none !important; }
.pictures .preview { background: var(--block-background-fill); backdrop-filter: none; }
.pictures:has(.preview) .gallery-container { min-height: min(640px, 100vw); }
.pictures .preview .caption { font-weight: 400; color: var(--body-text-color); white-space: normal !important;
  overflow: visible; max-width: 100%; text-align: center; padding: 0 12px; }
#compared .grid-container, #changes .grid-container { display: flex !important; flex-wrap: wrap; }
#compared .gallery-item, #changes .gallery-item { flex: 1 1 170px; max-width: 280px; }
.short { max-width: 560px; }
.rows { overflow: auto; max-height: 360px; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.rows table { width: 100%; border-collapse: collapse; font-size: .9rem; color: var(--body-text-color); }
.rows th, .rows td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--border-color-primary); }
.rows th { position: sticky; top: 0; background: var(--block-background-fill); font-weight: 600; }
.rows td:nth-child(3) { font-variant-numeric: tabular-nums; white-space: nowrap; }
#audited article { display: flex; gap: 22px; padding: 18px 0; border-bottom: 1px solid var(--border-color-primary); }
#audited figure { margin: 0; flex: 0 0 168px; }
#audited img { width: 168px; height: 168px; border-radius: 8px; background: #000; display: block; }
#audited figcaption { font-size: .8rem; padding-top: 6px; color: var(--body-text-color); }
dl.said { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0; font-size: .94rem; }
dl.said dt { color: var(--body-text-color-subdued); }
dl.said dd { margin: 0; overflow-wrap: anywhere; color: var(--body-text-color); }
p.state { margin: 8px 0 0; font-size: .94rem; font-weight: 600; color: var(--body-text-color); min-height: 1.4em; }
.block.card { border-top: 1px solid var(--border-color-primary); padding-top: 12px; }
.card table, .prose table { display: block; overflow-x: auto; border: 0 !important; }
.card td, .card th { border-color: var(--border-color-primary) !important; }
.card td, .card th { word-break: normal !important; overflow-wrap: normal !important; }
.card code { overflow-wrap: anywhere; white-space: normal; }
:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
@media (max-width: 640px) {
  .gradio-container > .main { padding: 12px 12px 32px !important; }
  .panes { gap: 16px; }
  .tabs button[role=tab], .tab-container button { padding: 0 7px !important; font-size: .85rem !important; }
  dl.said { grid-template-columns: 1fr; gap: 0; }
  dl.said dd { margin-bottom: 8px; }
  .pictures .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  #compared .gallery-item, #changes .gallery-item { flex-basis: 42%; max-width: 49%; }
  .pictures .caption-label { font-size: .74rem; }
  .rows { overflow: auto; max-height: 360px; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.rows table { width: 100%; border-collapse: collapse; font-size: .9rem; color: var(--body-text-color); }
.rows th, .rows td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--border-color-primary); }
.rows th { position: sticky; top: 0; background: var(--block-background-fill); font-weight: 600; }
.rows td:nth-child(3) { font-variant-numeric: tabular-nums; white-space: nowrap; }
#audited article { flex-direction: column; gap: 10px; }
  #head .badge { font-size: .8rem; }
  .tight .head { flex-wrap: nowrap !important; gap: 4px; }
  .tight .head input[type=number] { max-width: 56px; padding: 0 4px; }
  .picks .icon-wrap, .picks .wrap-inner .icon-wrap { display: none; }
  .picks .block { padding-left: 6px !important; padding-right: 6px !important; }
  .picks .wrap-inner { padding: 4px 0 !important; }
  .picks input { padding-left: 6px !important; padding-right: 2px !important; font-size: .88rem !important; }
}
"""


def theme() -> gr.themes.Base:
    """Quiet, with one accent; light and dark follow the browser. Fonts are the system's: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", radius_size="md", spacing_size="md", font=_FONT, font_mono=_MONO
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        body_background_fill="white",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_weight="600",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )
