"""The look of the panel, in JupyterLab's own colours where they are to be had.

Fallbacks are made from the text's colour and half-transparent tones, so that they
read on light and on dark ground alike. ``.gr-panel.gr-panel`` outweighs the rules
that JupyterLab has for ``pre``, ``code`` and ``table`` in any output.
"""

STYLE = """<style>
.gr-panel{--gr-line:var(--jp-border-color2,rgba(128,128,128,.35));
--gr-soft:var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#828282));
--gr-red:var(--jp-error-color1,#e0443e);
--gr-mono:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);
border:1px solid var(--gr-line);border-left:3px solid var(--gr-red);border-radius:2px;
padding:8px 12px;box-sizing:border-box;line-height:1.45;overflow-wrap:anywhere;
color:var(--jp-content-font-color1,inherit);
font-family:var(--jp-ui-font-family,system-ui,sans-serif);
font-size:var(--jp-ui-font-size1,13px)}
.gr-panel.gr-done{border-left-color:var(--gr-line)}
.gr-panel.gr-panel p{margin:0 0 4px}
.gr-panel.gr-panel p:last-child{margin:0}
.gr-panel .gr-error{font-size:var(--jp-content-font-size1,14px)}
.gr-panel .gr-error strong,.gr-panel .gr-warn,.gr-panel .gr-mark{color:var(--gr-red)}
.gr-panel .gr-state,.gr-panel .gr-more{color:var(--gr-soft)}
.gr-panel.gr-panel :not(pre)>code,.gr-panel.gr-panel pre{background:none;border:0;
font-family:var(--gr-mono);font-size:var(--jp-code-font-size,13px);color:inherit}
.gr-panel.gr-panel :not(pre)>code{padding:0;white-space:pre-wrap}
.gr-panel.gr-panel pre{margin:4px 0 8px;padding:4px 0;line-height:1.45;overflow:auto;
max-height:420px;tab-size:4;white-space:pre}
.gr-panel.gr-panel pre.gr-text{white-space:pre-wrap;padding:0}
.gr-panel.gr-panel pre.gr-message{max-height:12em}
.gr-panel.gr-panel pre.gr-source{border:1px solid var(--gr-line);border-radius:2px;
background:var(--jp-cell-editor-background,rgba(128,128,128,.08))}
.gr-panel .gr-row{display:block;padding:0 10px 0 8px;min-width:max-content}
.gr-panel .gr-in{background:rgba(224,68,62,.1)}
.gr-panel .gr-at{background:rgba(224,68,62,.22)}
.gr-panel .gr-no{color:var(--gr-soft);opacity:.75}
.gr-panel .gr-no,.gr-panel .gr-mark{user-select:none}
.gr-panel .gr-k{color:var(--jp-mirror-editor-keyword-color,inherit);font-weight:bold}
.gr-panel .gr-s{color:var(--jp-mirror-editor-string-color,inherit)}
.gr-panel .gr-c{color:var(--jp-mirror-editor-comment-color,inherit);font-style:italic}
.gr-panel .gr-n{color:var(--jp-mirror-editor-number-color,inherit)}
.gr-panel .gr-d{color:var(--jp-mirror-editor-def-color,inherit)}
.gr-panel .gr-b{color:var(--jp-mirror-editor-builtin-color,inherit)}
.gr-panel.gr-panel table{border:0;border-collapse:collapse;margin:2px 0 6px;
font-size:inherit;table-layout:auto}
.gr-panel.gr-panel tr.gr-tr{background:none}
.gr-panel.gr-panel td{border:0;padding:1px 16px 1px 0;text-align:left;
vertical-align:top;max-width:none;white-space:normal;line-height:1.45}
.gr-panel.gr-panel td.gr-name{white-space:nowrap;max-width:240px;overflow:hidden;
text-overflow:ellipsis}
.gr-panel.gr-panel td.gr-name code{white-space:pre}
.gr-panel.gr-panel td.gr-do code{padding:0 4px;border-radius:2px;
background:var(--jp-layout-color2,rgba(128,128,128,.15))}
.gr-panel details{margin:0;padding:0}
.gr-panel.gr-panel details>:not(summary){margin-left:14px}
.gr-panel summary{cursor:pointer;padding:1px 0;color:var(--gr-soft)}
.gr-panel summary:hover{color:inherit}
.gr-panel .gr-next{margin-top:8px;border-top:1px solid var(--gr-line);padding-top:6px}
.gr-panel .gr-next table{margin-bottom:0}
</style>"""
