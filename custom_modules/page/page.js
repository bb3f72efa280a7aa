// What Gradio leaves to the page itself. It runs before Gradio's own scripts.
(() => {
	// The language: what the visitor chose, else the browser's. Gradio asks the browser.
	const chosen = new URLSearchParams(location.search).get("language");
	const language = (chosen || navigator.language || "en").toLowerCase().startsWith("pl") ? "pl" : "en";
	Object.defineProperty(navigator, "language", { get: () => language });
	Object.defineProperty(navigator, "languages", { get: () => [language] });
	const root = document.documentElement;
	root.lang = root.dataset.language = language;

	// A tab remembers its visit over a reload, and a new tab knows of none.
	window.visitPage = {
		language,
		visit: () => sessionStorage.getItem("visit") || "",
	};

	function look() {
		if (root.lang !== language) root.lang = language;
		const status = document.querySelector("[data-visit]");
		if (status) sessionStorage.setItem("visit", status.dataset.visit);
		const told = document.getElementById("status");
		if (told && !told.hasAttribute("aria-live")) {
			told.setAttribute("role", "status");
			told.setAttribute("aria-live", "polite");
		}
		// Gradio says it in English alone.
		const large = document.getElementById("too_large");
		for (const toast of document.querySelectorAll("[data-testid=toast-text]")) {
			if (large && toast.textContent.includes("maximum allowed size")) toast.innerHTML = large.innerHTML;
		}
		// Lengths are read when all is there: a connection for each track would keep the
		// few that a browser has to one server.
		if (document.querySelector(".status.finished")) {
			for (const audio of document.querySelectorAll(".players audio[preload=none]")) {
				audio.preload = "metadata";
				if (audio.paused && audio.readyState === 0) audio.load();
			}
		}
	}
	new MutationObserver(look).observe(document, { childList: true, subtree: true });

	// Two voices at once are what the visitor came with.
	document.addEventListener("play", (event) => {
		for (const audio of document.querySelectorAll("audio")) {
			if (audio !== event.target) audio.pause();
		}
	}, true);
})();
