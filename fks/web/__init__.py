"""Pages, which only use the API: each is one self-contained HTML file with no outside assets and no data in it. They
ask for a token once and keep it in the tab's sessionStorage."""
