(() => {
  const root = document.documentElement, icons = {
    play: '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2.2v11.6L13.6 8z"/></svg>',
    pause: '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M3.5 2.5h3v11h-3zm6 0h3v11h-3z"/></svg>' };
  root.classList.add('js');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const theme = Object.assign(document.createElement('button'), { className: 'theme', title: 'Light or dark' });
  theme.setAttribute('aria-label', 'Switch between light and dark');
  const isDark = () => (root.dataset.theme || (dark.matches ? 'dark' : 'light')) === 'dark';
  const show = () => { theme.textContent = isDark() ? '☀' : '☾'; };
  theme.onclick = () => { root.dataset.theme = isDark() ? 'light' : 'dark'; show(); };
  document.body.append(theme); show();
  let current = null;
  for (const box of document.querySelectorAll('.player')) {
    const audio = box.querySelector('audio'), wave = box.querySelector('.wavebox');
    const button = Object.assign(document.createElement('button'), { className: 'play', type: 'button' });
    const text = box.parentElement.querySelector('.source')?.textContent ?? '';
    const plans = box.parentElement.querySelectorAll('figure[data-seconds]');
    const play = () => audio.play().catch(() => {});
    const label = () => { const on = !audio.paused; button.innerHTML = icons[on ? 'pause' : 'play'];
      button.setAttribute('aria-label', (on ? 'Pause: ' : 'Play: ') + text); };
    const place = () => { const at = audio.currentTime, all = audio.duration || 1;
      box.style.setProperty('--at', at / all); wave.setAttribute('aria-valuenow', Math.round(100 * at / all));
      for (const plan of plans) plan.style.setProperty('--at', Math.min(1, at / plan.dataset.seconds)); };
    const frame = () => { place(); if (!audio.paused) requestAnimationFrame(frame); };
    const state = (name) => { for (const one of [box, ...plans]) {
      one.classList.toggle('playing', name === 'playing'); one.classList.toggle('paused', name === 'paused'); } };
    button.onclick = () => audio.paused ? play() : audio.pause();
    const loaded = (go) => audio.readyState ? go() : (audio.addEventListener('loadedmetadata', go, { once: true }), audio.load());
    wave.onclick = (event) => loaded(() => { const area = wave.getBoundingClientRect();
      audio.currentTime = (event.clientX - area.left) / area.width * audio.duration; play(); });
    wave.onkeydown = (event) => { const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (step) { event.preventDefault(); loaded(() => { audio.currentTime += step; }); } };
    wave.tabIndex = 0; wave.setAttribute('role', 'slider'); wave.setAttribute('aria-label', 'Place in percent: ' + text);
    audio.onplay = () => { if (current && current !== audio) current.pause(); current = audio; state('playing'); label(); frame(); };
    audio.onpause = () => { state(audio.ended ? '' : 'paused'); label(); };
    audio.onseeked = place;
    audio.onended = () => { state(''); label(); };
    box.prepend(button); label(); place();
  }
})();
